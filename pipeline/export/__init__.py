"""A model on its way out of the house: Bento, bill of materials, other libraries' formats."""
