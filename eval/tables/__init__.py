"""Tables and figures of finished rows: the demo's, and the paper's with ours beside them."""
