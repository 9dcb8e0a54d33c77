"""The leaderboard: a static site of everything in some stores."""
