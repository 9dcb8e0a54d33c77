"""The leaderboard: a static site of everything a few stores hold."""
