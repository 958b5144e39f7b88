"""What concerns the machine and not the method: files, memory, threads, random numbers,
compatibility.
"""
