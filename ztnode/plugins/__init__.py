"""The built-in plugins, registered exactly as a third party's would be."""
