"""`curb mcp`: Curb for assistants that speak the Model Context Protocol."""
