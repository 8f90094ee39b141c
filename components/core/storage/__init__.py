"""Files and objects: the home folder, S3, disk space, outages, and what addresses and tables may show."""
