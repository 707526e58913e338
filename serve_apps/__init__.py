"""Ray Serve applications: the gateway that grants leases, and one replica for each model and host."""
