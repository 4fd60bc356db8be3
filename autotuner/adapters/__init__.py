"""The hook in the trainers that people use; each module needs its trainer's library, and only that one."""
