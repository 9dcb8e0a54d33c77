"""What each kind of page is given to show."""
