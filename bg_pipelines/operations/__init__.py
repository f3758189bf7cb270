"""Operations: what people see of the jobs and do about them, on the board and by commands alike."""
