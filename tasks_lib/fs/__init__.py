"""Files as the operating system offers them: what POSIX does not promise stands here, each call with its fallback."""
