"""Image networks by name: torchvision's, timm's and transformers'."""
