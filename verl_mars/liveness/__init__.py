"""Dead workers end a run with an explanation, where verl would block forever. Knows no method."""
