"""What a store holds, what of it is damaged, and what nobody needs any more."""
