"""File operations of the operating system; each call beyond POSIX has a fallback."""
