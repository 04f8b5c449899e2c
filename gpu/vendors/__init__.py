"""What each vendor's management library tells of its devices, read in a process of its own.

`readings` is what is told, `driver` how it is asked, `gate` whether there is anything to ask, `child` the process.
Nothing here touches the database or knows what a device is used for.
"""
