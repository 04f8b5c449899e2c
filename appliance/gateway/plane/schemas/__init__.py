"""Everything that crosses between the planes, as msgspec Structs.

Readers ignore members that they do not know, and every member added later has a default, so that planes of
neighbouring versions understand each other.
"""
