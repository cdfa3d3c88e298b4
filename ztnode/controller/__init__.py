"""The network controller: members, authorization, managed addresses, signed configurations. Sans-IO."""
