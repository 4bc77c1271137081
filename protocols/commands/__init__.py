"""Commands of the experiments, one module each; ``blurface.cli`` names them."""
