"""Version control: git, hg, repository URLs, and the environment in which both programs run."""
