"""One log's directory: its segments and the small files beside them."""
