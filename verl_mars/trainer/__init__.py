"""verl's v1 trainer modes with a method: values of a batch in, advantages and metrics out."""
