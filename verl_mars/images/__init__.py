"""The images of a prompt, handled once: loaded, cut to patches and stored once for all of its sessions."""
