"""Raw images on their way in: sources, decoding, examination, expectations."""
