"""What a model is: the interface that all offer, the VDM, its configuration and its folder."""
