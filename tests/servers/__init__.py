"""Real servers that tests talk to over the network: started once a test process, ended with it."""
