"""A network controller: members, authorisation, pools, signed configurations. Sans-IO."""
