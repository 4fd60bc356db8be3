"""Pure decisions over plain records: observe, choose, guard. Time is passed in; nothing here reads a clock or a file."""
