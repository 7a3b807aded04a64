"""`danube-trio top`: what a running program does, as a page that renews itself."""
