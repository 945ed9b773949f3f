"""Child processes that touch untrusted bytes, and the clients that talk to them."""
