"""Operations: executed, shared, cancelled and subscribed to."""
