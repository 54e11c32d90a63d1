"""What a job's record comes to, for people and for programs."""
