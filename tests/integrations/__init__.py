"""ztclient with libraries, servers and programs that others wrote."""
