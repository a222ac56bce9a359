"""The paper, one file per section; parameter names are those of the released checkpoint."""
