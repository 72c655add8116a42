"""Credentials from elsewhere: import and adopt, and their commands."""
