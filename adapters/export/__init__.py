"""The books in the formats of programs that are not ours. One file a format; none reads the books itself."""
