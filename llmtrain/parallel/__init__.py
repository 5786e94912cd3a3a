"""The mesh and the sharding of a stage over it."""
