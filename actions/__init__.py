"""Messages to people, and limits that can be taken back."""
