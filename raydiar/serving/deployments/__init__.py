"""What Ray Serve runs besides the ingress and the workers, and where it places all of them."""
