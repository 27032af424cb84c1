"""Checks of strangers' photos and of the hosts that requests name; the Space and the service use them."""
