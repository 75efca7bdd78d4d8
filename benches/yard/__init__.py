"""What `benches/versus` is made of: processes and their cost, the peers, the cases, a slow link."""
