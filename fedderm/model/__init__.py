"""The cascade over timm backbones, its pretrained weights and its files."""
