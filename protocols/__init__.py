"""The experiments: pairs, degradation, restoration, verification, tables and figures."""
