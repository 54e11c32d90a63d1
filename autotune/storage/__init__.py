"""The record of jobs, leases, measurements and recommendations, in SQLite or PostgreSQL."""
