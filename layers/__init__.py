"""What stands around the routes: each file is one layer, in the order in which app.py lists them."""
