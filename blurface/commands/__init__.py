"""Commands of the restoration stage, one a module, imported when called."""
