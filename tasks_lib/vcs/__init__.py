"""Version control: git, hg, URLs of repositories, and the environment in which both programs run."""
