"""Self-contained HTML pages: one file each, images as data URLs, every text escaped, no network."""
