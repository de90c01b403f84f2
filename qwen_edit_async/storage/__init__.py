"""Where results go and inputs lie: local folders."""
