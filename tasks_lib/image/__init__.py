"""Container images: the documents of an OCI image layout, and checks of layers that lie above each other."""
