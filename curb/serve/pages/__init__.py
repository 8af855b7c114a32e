"""The dashboard: pages for people, and the buttons on them."""
