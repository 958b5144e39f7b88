"""What concerns the machine, not the method: files, memory, threads, random numbers …"""
