"""`gpuknn data get`: published files into a data folder, each under its name once it is whole and right.

plan.py             which files are to be fetched, and whether there is room;  download.py  the same as a function
run.py              a plan at work: one file after the other
file.py             one file: its record, its md5 sum, its name
transfer.py         its bytes on their way, by several connections;  digest.py  the md5 sum that follows them
server.py           one request, and all that a web server may answer
"""
