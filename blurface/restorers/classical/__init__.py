"""The compared methods: blind deblurring from before networks, and their non-blind last steps.

One method a file on the shared blocks of :mod:`.core`. Every method is a function over a batch of
pictures of one size with a frozen dataclass of settings (the authors' defaults), and a
:class:`~blurface.restorers.base.Restorer` around it.
"""
